"""What figures prove: a run beside the documented baseline."""
