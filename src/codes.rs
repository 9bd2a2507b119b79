//! Enums whose values have stable codes: one list makes the values, the codes and their JSON form.

/// Declares an enum without fields. Each value has its code behind it, as JSON, the journal and a policy show it.
///
/// Gives `ALL` (in the order of the list), `WORDS` (each code with its value), `as_str`, and `Serialize`.
macro_rules! codes {
    (
        $(#[$attribute:meta])*
        pub enum $name:ident { $($(#[$value_attribute:meta])* $value:ident = $code:literal,)+ }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ::serde::Serialize)]
        pub enum $name {
            $($(#[$value_attribute])* #[serde(rename = $code)] $value,)+
        }

        #[allow(dead_code, reason = "not every list is asked for everything")]
        impl $name {
            /// Every value, in order.
            pub const ALL: [Self; [$($code),+].len()] = [$(Self::$value),+];

            /// Every code with its value, in order.
            pub const WORDS: [(&'static str, Self); [$($code),+].len()] = [$(($code, Self::$value)),+];

            /// The stable code.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $code,)+
                }
            }
        }
    };
}
