"""Images: settings, files, arrays, named sets and .beton, and what is done to them."""
