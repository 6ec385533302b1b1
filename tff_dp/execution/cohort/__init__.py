"""The data of cohorts, in any of the supported forms, as tensors and tables of batches."""
