"""What each user may do on this instance: the limits in force, those that are stored, and what of the rates is used.

``allowances`` is the face of the package. Rates and requests at once are counted on one instance by itself.
"""
