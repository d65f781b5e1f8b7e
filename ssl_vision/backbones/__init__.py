"""Networks: timm models behind one interface."""
