"""HL7 v2: ADT as PAM.fr has it."""
