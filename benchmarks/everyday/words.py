import random
from collections import Counter

random.seed(7)
words = [f"w{random.randrange(50000)}" for _ in range(600000)]
counts = Counter(words)
for word, count in counts.most_common(5):
    print(word, count)
