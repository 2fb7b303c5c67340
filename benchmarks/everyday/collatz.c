#include <stdio.h>

int main(void) {
    int best = 0, longest = 0;
    for (int start = 1; start < 2000000; start++) {
        unsigned long n = start;
        int steps = 0;
        while (n != 1) {
            n = n % 2 ? 3 * n + 1 : n / 2;
            steps++;
        }
        if (steps > longest) {
            longest = steps;
            best = start;
        }
    }
    printf("%d takes %d steps\n", best, longest);
    return 0;
}
