"""What training minimises. Objectives ask for passes through the network and see outputs and features, never modules."""
