"""An avatar that speaks with other people's voices, its lips held against the lips that were filmed."""
