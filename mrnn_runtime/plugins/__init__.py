"""What a plugin must look like, and the manager that finds and loads plugins."""
