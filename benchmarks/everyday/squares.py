squares = [i * i for i in range(5_000_000)]
print(sum(squares))
