"""Makers, histories, captured answers and stand-ins that several rooms of tests share."""
