"""Real-time talking avatars: audio in, frames out."""
