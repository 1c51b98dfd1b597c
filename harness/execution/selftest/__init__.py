"""What a suite's gate would catch: defects planted on purpose, and clean controls."""
