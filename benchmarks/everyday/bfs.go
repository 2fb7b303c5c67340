package main

import "fmt"

type point struct{ r, c int }

func main() {
	const size = 1500
	seen := make([][]bool, size)
	for i := range seen {
		seen[i] = make([]bool, size)
	}
	queue := []point{{0, 0}}
	seen[0][0] = true
	steps := 0
	for len(queue) > 0 {
		p := queue[0]
		queue = queue[1:]
		steps++
		for _, d := range []point{{1, 0}, {-1, 0}, {0, 1}, {0, -1}} {
			r, c := p.r+d.r, p.c+d.c
			if r >= 0 && r < size && c >= 0 && c < size && !seen[r][c] {
				seen[r][c] = true
				queue = append(queue, point{r, c})
			}
		}
	}
	fmt.Println(steps)
}
