"""What operators see of somactl from outside: metrics, read off reports after the work is done."""
