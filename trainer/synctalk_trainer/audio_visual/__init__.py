"""The audio-visual encoder: what speech looks like, learned from talking clips and from synthetic speech.

``corpus`` gathers sound and mouths, ``augment`` makes other voices and rooms of it, ``networks`` and ``training`` learn,
``encoder`` runs the result, and ``offset`` asks it whether a clip's lips and sound are in step.
"""
