const people = [];
for (let i = 0; i < 1e6; i++) {
  people.push({ id: i, name: `person ${i}`, age: (i * 37) % 90 });
}
const adults = people.filter((p) => p.age >= 18).map((p) => p.name.length);
console.log(adults.reduce((a, b) => a + b, 0));
