"""What training minimises. Objectives ask for passes through the network; they see features, never
modules.
"""
