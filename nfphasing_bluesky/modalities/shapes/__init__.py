"""What curves of bodies of any shape take: a prior of p(r), searched and solved for."""
