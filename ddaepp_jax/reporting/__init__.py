"""What a run directory tells, and how a page is made of it. Knows nothing of networks, and starts
no backend.
"""
