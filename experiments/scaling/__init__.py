"""What an accelerator does in a few minutes, and what memory many of them need."""
