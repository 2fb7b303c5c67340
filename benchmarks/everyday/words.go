package main

import (
	"fmt"
	"strings"
)

func main() {
	var b strings.Builder
	for i := 0; i < 2_000_000; i++ {
		fmt.Fprintf(&b, "word%d ", i%1000)
	}
	counts := map[string]int{}
	for _, w := range strings.Fields(b.String()) {
		counts[w]++
	}
	fmt.Println(len(counts))
}
