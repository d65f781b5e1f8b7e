"""Small parts of networks: heads, decoder, teacher, patches."""
