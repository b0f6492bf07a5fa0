"""From a scene to sound: events on a background, with labels that were measured."""
