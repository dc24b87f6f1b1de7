"""The small repository `enchanted demo` works on. It is data: nothing here is imported by Enchanted."""
