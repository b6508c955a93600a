"""The terminals of one giant VM: each node is started by a command of its own, and they find each other.

On one host they meet at a socket in the user's runtime folder. The head's terminal (node 0) starts and ends the VM;
the others hold a node each: who leaves takes the node along, and with it the guest.
"""
