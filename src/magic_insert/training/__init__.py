"""Lightning modules and the jobs that fit them."""
