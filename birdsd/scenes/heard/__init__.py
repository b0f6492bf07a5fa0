"""What is heard in a sound, measured: when it begins and ends, in which band, and how loud against others."""
