#include <stdio.h>
#include <stdlib.h>

#define COUNT (120 * 1000 * 1000)

int main(void) {
    double *values = malloc(COUNT * sizeof(double));
    for (int i = 0; i < COUNT; i++) values[i] = i * 0.5;
    double total = 0;
    for (int i = 0; i < COUNT; i++) total += values[i];
    printf("%f\n", total);
    free(values);
    return 0;
}
