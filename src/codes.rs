//! Enums whose values have stable codes. One list defines the values, the codes and the JSON form.

/// Declares an enum without fields. The code behind each value is the text in JSON, in the journal and in a policy.
///
/// Defines `ALL` (in the order of the list), `WORDS` (each code with its value), `as_str`, `Serialize`, and for tests
/// the JSON Schema.
macro_rules! codes {
    (
        $(#[$attribute:meta])*
        pub enum $name:ident { $($(#[$value_attribute:meta])* $value:ident = $code:literal,)+ }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ::serde::Serialize)]
        #[cfg_attr(test, derive(::schemars::JsonSchema))]
        pub enum $name {
            $($(#[$value_attribute])* #[serde(rename = $code)] $value,)+
        }

        #[allow(dead_code, reason = "not every list is asked for everything")]
        impl $name {
            pub const ALL: [Self; [$($code),+].len()] = [$(Self::$value),+];

            pub const WORDS: [(&'static str, Self); [$($code),+].len()] = [$(($code, Self::$value)),+];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $code,)+
                }
            }
        }
    };
}
