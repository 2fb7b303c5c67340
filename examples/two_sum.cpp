#include <cstdint>
#include <iostream>
#include <unordered_map>
#include <vector>

// How many pairs of numbers below 1000003 add up to 999983.
int main() {
    const int n = 400000;
    std::vector<std::int64_t> values;
    values.reserve(n);
    std::int64_t state = 12345;
    for (int i = 0; i < n; ++i) {
        state = (state * 1103515245 + 12345) % 2147483648LL;
        values.push_back(state % 1000003);
    }
    std::unordered_map<std::int64_t, std::int64_t> seen;
    std::int64_t pairs = 0;
    for (const auto value : values) {
        const auto found = seen.find(999983 - value);
        if (found != seen.end()) pairs += found->second;
        ++seen[value];
    }
    std::cout << pairs << "\n";
    return 0;
}
