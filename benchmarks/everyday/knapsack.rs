fn main() {
    let items: Vec<(usize, u64)> = (1..=400).map(|i| (i * 7 % 90 + 10, (i * 13 % 101) as u64)).collect();
    let capacity = 50_000;
    let mut best = vec![vec![0u64; capacity + 1]; items.len() + 1];
    for (i, &(weight, value)) in items.iter().enumerate() {
        for c in 0..=capacity {
            best[i + 1][c] = best[i][c];
            if c >= weight {
                best[i + 1][c] = best[i + 1][c].max(best[i][c - weight] + value);
            }
        }
    }
    println!("{}", best[items.len()][capacity]);
}
