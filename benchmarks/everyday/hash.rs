use std::collections::HashMap;

fn main() {
    let mut counts: HashMap<u64, u32> = HashMap::new();
    let mut x: u64 = 1;
    for _ in 0..2_000_000 {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *counts.entry(x >> 44).or_insert(0) += 1;
    }
    println!("{}", counts.len());
}
