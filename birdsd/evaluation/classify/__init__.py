"""A classifier of your own over hours of recordings, window by window, in several processes"""
