"""One long canvas under several prompts: regions of a scene, and animations from prompt to prompt."""
