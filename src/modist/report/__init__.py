"""What people look at: model cards, tables, pictures."""
