#include <cstdio>
#include <vector>

int main() {
    const int limit = 50'000'000;
    std::vector<bool> composite(limit + 1);
    int count = 0;
    for (int i = 2; i <= limit; i++) {
        if (composite[i]) continue;
        count++;
        for (long long j = (long long)i * i; j <= limit; j += i) composite[j] = true;
    }
    printf("%d primes\n", count);
}
