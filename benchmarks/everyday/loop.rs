fn main() {
    let mut x: u32 = 1;
    for i in 0..2_000_000_000u64 {
        x = x.wrapping_mul(1664525).wrapping_add(i as u32);
    }
    println!("{}", x);
}
