"""VMs that have names: what runs in the background, who watches over it, and how to talk to it.

One supervisor process per VM, no daemon: it holds the VM's lock, serves the VM's control socket and ends with the VM.
"""
