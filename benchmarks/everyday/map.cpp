#include <iostream>
#include <map>
#include <string>

int main() {
    std::map<std::string, int> ages;
    for (int i = 0; i < 400000; i++) ages["person" + std::to_string(7919L * i % 400009)] = i % 90;
    long total = 0;
    for (const auto& [name, age] : ages) total += age;
    std::cout << ages.size() << " " << total << "\n";
}
