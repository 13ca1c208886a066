"""Plans: tables, grids and FFTs around the compiled kernels."""
