"""What is about one kind of reading, for every kind: newest readings, lists, histories, posting."""
