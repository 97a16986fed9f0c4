"""Opens a ciphertext blob by the key in a token, knowing nothing but docs/keys.md and PKCS #11.

open_in_token.py LIBRARY TOKEN PIN LABEL BLOB-BASE64 [NAME VALUE]...: prints the plaintext.
"""

import base64
import struct
import sys

import PyKCS11


def associated_data(header, pairs):
    """The label, the header, then each name and value after its length, sorted."""
    data = b"sealdisk-kms/blob/v1" + header
    for name, value in sorted(pairs):
        for text in (name.encode(), value.encode()):
            data += struct.pack(">I", len(text)) + text
    return data


def main():
    library, token, pin, label, blob, *rest = sys.argv[1:]
    blob = base64.b64decode(blob)
    header, iv, sealed = blob[:45], blob[45:57], blob[57:]
    data = associated_data(header, list(zip(rest[::2], rest[1::2])))
    pkcs11 = PyKCS11.PyKCS11Lib()
    pkcs11.load(library)
    found = [
        slot
        for slot in pkcs11.getSlotList(tokenPresent=True)
        if pkcs11.getTokenInfo(slot).label.strip() == token
    ]
    session = pkcs11.openSession(found[0])
    session.login(pin)
    [key] = session.findObjects([(PyKCS11.CKA_LABEL, label)])
    for name, wanted in [
        (PyKCS11.CKA_SENSITIVE, True),
        (PyKCS11.CKA_EXTRACTABLE, False),
        (PyKCS11.CKA_NEVER_EXTRACTABLE, True),
        (PyKCS11.CKA_LOCAL, True),
    ]:
        [value] = session.getAttributeValue(key, [name])
        assert bool(value) is wanted, (name, value)
    try:
        [value] = session.getAttributeValue(key, [PyKCS11.CKA_VALUE])
    except PyKCS11.PyKCS11Error:
        value = None
    assert not value, "the key can be read"
    mechanism = PyKCS11.AES_GCM_Mechanism(list(iv), list(data), 128)
    plain = bytes(session.decrypt(key, list(sealed), mechanism))
    sys.stdout.write(plain.decode())


main()
