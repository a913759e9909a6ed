"""Pure JAX: from a face on its canvas to the cloak. No files, no Pillow, no clock."""
