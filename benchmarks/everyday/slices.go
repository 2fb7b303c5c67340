package main

import (
	"fmt"
	"sort"
)

func main() {
	const n = 3000000
	values := make([]int, 0)
	x := uint32(12345)
	for i := 0; i < n; i++ {
		x = x*1664525 + 1013904223
		values = append(values, int(x>>8))
	}
	sort.Ints(values)
	fmt.Println(values[n/2])
}
