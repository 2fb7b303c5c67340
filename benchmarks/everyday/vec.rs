fn main() {
    let n: usize = 30_000_000;
    let values: Vec<u64> = (0..n as u64).map(|x| x * x % 1013).collect();
    let total: u64 = values.iter().filter(|v| *v % 2 == 0).sum();
    println!("{}", total);
}
