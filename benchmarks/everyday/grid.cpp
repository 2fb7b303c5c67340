#include <bits/stdc++.h>
using namespace std;

int main() {
    const int n = 3000, m = 4000;
    vector<vector<int>> grid(n, vector<int>(m, 1));
    for (int i = 1; i < n; i++)
        for (int j = 1; j < m; j++)
            grid[i][j] = (grid[i - 1][j] + grid[i][j - 1]) % 1000007;
    cout << grid[n - 1][m - 1] << "\n";
}
