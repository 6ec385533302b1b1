"""A cohort's data as tensors and tables, whatever they came as."""
