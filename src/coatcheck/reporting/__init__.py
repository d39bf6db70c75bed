"""What can be read of the books: lists, statements, reports and exports. Nothing here moves money."""
