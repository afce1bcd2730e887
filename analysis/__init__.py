"""Many runs → one report: statistics, tables, pictures, a verdict. Knows run directories, nobody else."""
