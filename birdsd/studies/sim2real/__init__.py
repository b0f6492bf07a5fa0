"""`birdsd run sim2real`: does generated sound help a classifier of your own birds?"""
