"""What training minimises: objectives request passes through the network and see its features."""
