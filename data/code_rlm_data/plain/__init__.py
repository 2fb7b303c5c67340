"""Programs in people's plain style, of sizes from idle to gigabytes and seconds, to be measured; see `__main__`."""
