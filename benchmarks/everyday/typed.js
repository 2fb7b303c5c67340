const n = 1 << 25;
const values = new Float64Array(n);
for (let i = 0; i < n; i++) values[i] = Math.sqrt(i);
let total = 0;
for (const v of values) total += v;
console.log(total);
